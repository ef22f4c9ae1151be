from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("inventory", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="host",
            name="platform_name",
            field=models.CharField(
                blank=True,
                editable=False,
                help_text="What it is called there, whatever its name here.",
                max_length=200,
            ),
        ),
    ]
